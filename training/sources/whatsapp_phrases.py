"""What WhatsApp itself writes into an exported chat, in the languages of most phones; compared without case.

A language that is missing here is understood in part, by the marks and repetitions that whatsapp_bodies looks for.
"""

import re


def _phrases(block: str) -> frozenset[str]:
    return frozenset(phrase.strip().casefold() for phrase in block.replace("\n", "|").split("|") if phrase.strip())


# Android: <...> for any medium. iPhone: one phrase a kind.
OMITTED = {
    "": _phrases("""
        media omitted | medien ausgelassen | medien ausgeschlossen | médias omis | fichier omis | archivo omitido |
        multimedia omitido | mídia oculta | mídia omitida | ficheiro não revelado | media eliminati | media omessi |
        media weggelaten | без медиафайлов | медиа пропущены | файл пропущено | медіа пропущено |
        pominięto multimedia | medya dahil edilmedi | media tidak disertakan | utelämnade medier | media utelatt |
        media utelades | mediefil udeladt | media jätettiin pois | média vynechána | hiányzó médiafájl |
        fișier media omis | τα πολυμέσα παραλείφθηκαν | メディアなし | メディアは省略されました | 媒体省略 |
        媒体文件已省略 | 省略多媒體檔案 | 已忽略多媒體檔 | 미디어 생략 | 미디어 파일을 생략한 대화내용 |
        미디어 파일 생략됨 | تم استبعاد الوسائط | המדיה לא נכללה | मीडिया के बिना | view once voice message omitted |
        video message omitted | video note omitted | videonachricht weggelassen
    """),
    "image": _phrases("""
        image omitted | photo omitted | bild weggelassen | imagen omitida | image absente | immagine omessa |
        imagem ocultada | imagem omitida | afbeelding weggelaten | изображение отсутствует | görüntü dahil edilmedi |
        obraz pominięty | bild utelämnad | 画像は省略されています | 图片已忽略 | 忽略圖片 | 이미지가 생략됨
    """),
    "video": _phrases("""
        video omitted | video weggelassen | video omitido | vídeo omitido | vidéo absente | video omesso |
        video weggelaten | видео отсутствует | video dahil edilmedi | film pominięty | video utelämnad |
        動画は省略されています | 视频已忽略 | 忽略影片 | 동영상이 생략됨
    """),
    "audio": _phrases("""
        audio omitted | audio weggelassen | audio omitido | áudio ocultado | áudio omitido | audio omis |
        audio omesso | audio weggelaten | аудиофайл отсутствует | ses dahil edilmedi | audio pominięte |
        音声は省略されています | 音频已忽略 | 忽略語音訊息 | 오디오가 생략됨
    """),
    "sticker": _phrases("""
        sticker omitted | sticker weggelassen | sticker omitido | figurinha omitida | sticker omis |
        sticker non incluso | sticker omesso | sticker weggelaten | стикер отсутствует | çıkartma dahil edilmedi |
        ステッカーは省略されています | 贴图已忽略 | 忽略貼圖 | 스티커가 생략됨
    """),
    "gif": _phrases("""
        gif omitted | gif weggelassen | gif omitido | gif retiré | gif omis | gif esclusa | gif omessa |
        gif weggelaten | gif отсутствует | gif dahil edilmedi | gifは省略されています | gif已忽略 | 忽略 gif |
        gif가 생략됨
    """),
    "document": _phrases("""
        document omitted | dokument weggelassen | documento omitido | document manquant | document omis |
        documento omesso | document weggelaten | документ отсутствует | belge dahil edilmedi |
        文書は省略されています | 文档已忽略 | 忽略文件 | 문서가 생략됨
    """),
    "contact": _phrases("""
        contact card omitted | kontaktkarte ausgelassen | kontaktkarte weggelassen | tarjeta de contacto omitida |
        fiche contact omise | scheda contatto omessa | cartão do contato omitido | contactkaart weggelaten |
        контакт отсутствует | kişi kartı dahil edilmedi
    """),
}

ATTACHED = _phrases("""
    file attached | attached | datei angehängt | angehängt | anhang | archivo adjunto | adjunto | fichier joint |
    fichier attaché | pièce jointe | file allegato | allegato | arquivo anexado | ficheiro anexado | anexado |
    bestand bijgevoegd | bijgevoegd | файл добавлен | прикреплённый файл | dosya ekli | plik dołączony |
    załączono plik | bifogad fil | fil vedhæftet | berkas terlampir | file terlampir | ファイル添付 | 添付ファイル |
    文件附件 | 档案已附加 | 檔案已附加 | 附件 | 附档 | 파일 첨부됨 | ملف مرفق | הקובץ צורף | קובץ מצורף
""")

EDITED = _phrases("""
    this message was edited | diese nachricht wurde bearbeitet | se editó este mensaje | este mensaje fue editado |
    ce message a été modifié | questo messaggio è stato modificato | mensagem editada | esta mensagem foi editada |
    dit bericht is bewerkt | данное сообщение изменено | сообщение изменено | bu mesaj düzenlendi |
    wiadomość została zedytowana | pesan ini diedit | このメッセージは編集されました | 此消息已编辑 | 此訊息已編輯 |
    메시지가 수정되었습니다 | تم تعديل هذه الرسالة | ההודעה נערכה
""")

DELETED = _phrases("""
    this message was deleted | you deleted this message | message deleted | diese nachricht wurde gelöscht |
    du hast diese nachricht gelöscht | se eliminó este mensaje | este mensaje fue eliminado |
    eliminaste este mensaje | ce message a été supprimé | ce message a été effacé | vous avez supprimé ce message |
    tu as supprimé ce message | questo messaggio è stato eliminato | hai eliminato questo messaggio |
    mensagem apagada | esta mensagem foi apagada | você apagou esta mensagem | eliminou esta mensagem |
    dit bericht is verwijderd | dit bericht werd verwijderd | u hebt dit bericht verwijderd |
    je hebt dit bericht verwijderd | данное сообщение удалено | вы удалили данное сообщение |
    це повідомлення видалено | bu mesaj silindi | bu mesajı sildiniz | ta wiadomość została usunięta |
    usunięto tę wiadomość | detta meddelande raderades | du raderade detta meddelande | denne besked blev slettet |
    denne meldingen ble slettet | pesan ini telah dihapus | anda telah menghapus pesan ini |
    このメッセージは削除されました | このメッセージを削除しました | 此消息已删除 | 此消息已被删除 | 您已删除此消息 |
    你已删除这条消息 | 此訊息已刪除 | 您已刪除此訊息 | 삭제된 메시지입니다 | 내가 삭제한 메시지입니다 |
    تم حذف هذه الرسالة | لقد حذفت هذه الرسالة | הודעה זו נמחקה | मैसेज हटा दिया गया | यह संदेश हटाया गया
""")

# What was sent but cannot be shown.
MISSING = re.compile(
    r"(?:waiting for this message|warten auf diese nachricht|esperando este mensaje|en attente de ce message"
    r"|in attesa di questo messaggio|aguardando (?:esta )?mensagem|wachten op dit bericht"
    r"|(?:you (?:sent|received) a|this) view once (?:photo|video|voice message|message))(?:[.…].*)?"
    r"|live location shared|live-standort wird geteilt|se compartió la ubicación en tiempo real"
    r"|localisation en direct partagée|localização em tempo real compartilhada"
)

_HOW = (
    r"(?:(?:[,.] | • | at | um | a las | à | alle | às | om | в )"
    r"(?:\d.{0,40}|no answer|missed|declined|tap to call back"
    r"|keine antwort|sin respuesta|aucune réponse|pas de réponse|nessuna risposta|sem resposta|geen antwoord"
    r"|нет ответа|tippe(?:n)?,? .{0,40}|toca .{0,40}|toque .{0,40}|appuyez .{0,40}|tocca .{0,40}))"
)
CALL = re.compile(
    rf"(?:(?:missed|silenced) (?:group )?(?:voice|video) call|verpasster? (?:gruppen-?)?(?:sprach|video)?anruf"
    rf"|(?:video)?llamada (?:de (?:voz|vídeo|video) )?(?:grupal )?perdida"
    rf"|appel (?:vocal|vidéo|audio) (?:de groupe )?manqué|(?:video)?chiamata (?:vocale )?(?:di gruppo )?persa"
    rf"|(?:chamada|ligação) de (?:voz|vídeo) (?:em grupo )?perdida|gemiste (?:groeps)?(?:spraak|video)?oproep"
    rf"|пропущенный (?:групповой )?(?:аудио|видео)?звонок|cevapsız (?:grup )?(?:sesli|görüntülü) arama"
    rf"|nieodebrane połączenie (?:głosowe|wideo)|panggilan (?:suara|video) tak terjawab|不在着信"
    rf"|未接(?:语音|視訊|视频|語音)(?:通话|通話|来电|來電)|부재중 (?:음성|영상) ?통화){_HOW}?"
    rf"|(?:(?:group )?(?:voice|video) call|(?:sprach|video)anruf|(?:video)?llamada(?: de voz)?"
    rf"|appel (?:vocal|vidéo)|(?:video)?chiamata(?: vocale)?|chamada de (?:voz|vídeo)|(?:spraak|video)oproep"
    rf"|(?:аудио|видео)звонок){_HOW}"
)

# Said once at the head of each chat, under nobody's name, the contact's or the group's.
NOTICE = re.compile(
    r"messages (?:and calls|(?:and calls |you send )?(?:to|in) this (?:chat|group)(?: and calls)?) are"
    r" (?:now )?(?:secured with )?end-to-end"
    r"|nachrichten und anrufe sind ende-zu-ende-verschlüsselt"
    r"|nachrichten in diesem chat (?:sowie anrufe )?sind (?:jetzt )?(?:mit )?ende-zu-ende"
    r"|(?:los )?mensajes y (?:las )?llamadas están cifrados de extremo a extremo"
    r"|les messages et (?:les )?appels sont chiffrés de bout en bout"
    r"|i messaggi e le chiamate sono (?:crittografati|protetti)"
    r"|as mensagens e (?:as )?(?:chamadas|ligações) são (?:protegidas|encriptadas)"
    r"|berichten en (?:oproepen|gesprekken) (?:worden|zijn) end-to-end"
    r"|сообщения и звонки защищены сквозным|mesajlar ve aramalar uçtan uca"
    r"|wiadomości i połączenia są .{0,20}szyfrowan"
    r"|pesan dan panggilan (?:di)?enkripsi|meddelanden och samtal är (?:helt|end-to-end)"
    r"|メッセージと通話は(?:エンドツーエンド|、?エンド)|消息和通[话話].{0,6}端[到对對]端|訊息和通話.{0,6}端[到對]端"
    r"|메시지와 통화는 종단"
    r"|الرسائل والمكالمات .{0,10}مشفر|ההודעות והשיחות .{0,20}מוצפנ|संदेश और कॉल .{0,40}एन्क्रिप्ट"
)

# {author} stands where the line says again who did it: only then is it WhatsApp's under a person's name.
DONE_BY_AUTHOR = (
    "{} left", "{} was added", "{} was removed", "{} added you", "{} removed you", "{} created this group",
    "{} joined using this group's invite link", "{} joined using your invite", "{} joined from the community",
    "{} changed this group's icon", "{} changed the group description", "{} deleted this group's icon",
    "{} changed their phone number to a new number. tap to message or add the new number",
    "{} changed to a new number. tap to message or add the new number", "{} turned on disappearing messages",
    "{} turned off disappearing messages", "{} pinned a message", "{} is a contact",
    "{} hat die gruppe verlassen", "{} hat dich hinzugefügt", "{} hat das gruppenbild geändert",
    "{} salió del grupo", "{} te añadió", "{} cambió el ícono del grupo", "{} a quitté", "{} vous a ajouté",
    "{} ha abbandonato", "{} ti ha aggiunto", "{} saiu", "{} te adicionou", "{} heeft de groep verlaten",
)  # fmt: skip

# In a line that is WhatsApp's own (no author, or the mark): such a line is written in groups only.
GROUP = re.compile(
    r" created (?:this group|group |the group )"
    r"| changed (?:the subject|the group name|this group's|the group's|the group description)"
    r"| (?:added|removed) (?:you|\S.*)$| was (?:added|removed)$| left$|you(?:'re| are) (?:now|no longer) an admin"
    r"| joined using "
    r"|you were (?:added|removed)|messages (?:you send )?(?:to|in) this group|this group's (?:settings|icon|invite)"
    r"| hat (?:die|diese) gruppe |gruppe .+ (?:erstellt|geändert)|gruppen(?:bild|beschreibung|info)| hinzugefügt"
    r"| entfernt$"
    r"| cre(?:ó|aste) (?:el|este) grupo| (?:te )?(?:añadió|agregó|añadiste)(?: a|$)| del grupo| el (?:asunto|ícono) "
    r"| a créé (?:le|ce) groupe| (?:a|avez) (?:ajouté|quitté|retiré)\b| du groupe| le sujet "
    r"| ha (?:creato|abbandonato|aggiunto|rimosso)\b| del gruppo| l'oggetto "
    r"| criou (?:o|este) grupo| (?:adicionou|saiu|removeu)\b| do grupo| o assunto "
    r"| (?:groep|de groep)\b.* (?:gemaakt|verlaten|gewijzigd)| (?:toegevoegd|verwijderd)$"
    r"| созда(?:л|ла|ли|\(-а\)) группу| добавил| вышел| покинул| изменил.* группы"
    r"| grubu | gruptan | grupę | grup[ay] | grup ini| グループ|群[组組]|그룹| المجموعة| הקבוצה| समूह",
    re.IGNORECASE,
)

# With an unfinished quotation, the head of a sentence and no author: ``Ana changed the subject from "a: b" to "c"``.
OF_A_GROUP = re.compile(
    r"subject|group|gruppe|betreff|grupo|asunto|groupe|sujet|gruppo|oggetto|assunto|groep|onderwerp|групп|тем[аыу]"
    r"|grup"
    r"|konu|temat|グループ|件名|群|主[題题]|그룹|المجموعة|הקבוצה",
    re.IGNORECASE,
)

POLL = _phrases("""
    poll | umfrage | encuesta | sondage | sondaggio | enquete | sondagem | peiling | опрос | anket | ankieta |
    omröstning | アンケート | 投票 | 投票活动 | 투표
""")

PLACE = re.compile(
    r"(?:(?:location|standort|ubicación|localisation|position|posizione|localização|locatie|местоположение|геопозиция|"
    r"konum|lokalizacja|lokasi|plats|位置情報|位置|位置信息|위치|الموقع|מיקום"
    r"|स्थान)\s?: ?)https?://(?:maps\.(?:google|apple|app)"
    r"|foursquare|goo\.gl/maps|www\.google\.com/maps)\S*",
    re.IGNORECASE,
)
